"""All models; import them from here."""

from connections.models.access_history import AccessPeriod
from connections.models.accounts import User
from connections.models.alerts import AlertChannel, AlertChoice, Delivery
from connections.models.api_keys import ApiKey, TokenFetch
from connections.models.app_registrations import AppCredential, AppRegistration
from connections.models.audit import AuditEvent, AuditView, RepeatedDenial
from connections.models.audit_seals import AuditSeal, AuditSealing, AuditVerification, SealPublication
from connections.models.connections import Connection
from connections.models.consent import ConsentLink, ConsentRequest
from connections.models.handovers import HandOver
from connections.models.incidents import AffectedConnection, Incident
from connections.models.mailboxes import MailboxAccess, SharedMailbox
from connections.models.policy import Approval, Policy
from connections.models.reviews import AccessReview, ReviewItem, ReviewPlan
from connections.models.sharing import Share, Team, TeamMember
from connections.models.sign_in_links import SignInLink
from connections.models.stored_replies import StoredReply
from connections.models.tenants import Tenant
