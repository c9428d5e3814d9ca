"""All models; import them from here."""

from connections.models.access_history import AccessPeriod
from connections.models.accounts import User
from connections.models.alerts import AlertChannel, AlertChoice, Delivery
from connections.models.api_keys import ApiKey, TokenFetch
from connections.models.app_registrations import AppConsent, AppCredential, AppRegistration
from connections.models.audit import AuditEvent, RepeatedDenial
from connections.models.audit_seals import AuditSeal, AuditSealing, AuditVerification, SealPublication
from connections.models.bulk_actions import BulkAction, BulkItem
from connections.models.change_requests import ChangeRequest
from connections.models.connections import Connection
from connections.models.consent import ConsentLink, ConsentRequest
from connections.models.credential_renewals import CredentialRenewal
from connections.models.daily_figures import DailyFigure, DailyTopKey, DailyUse
from connections.models.encryption_keys import KeyUsage, RunningProcess
from connections.models.handovers import HandOver
from connections.models.incidents import AffectedConnection, Incident
from connections.models.issuer_keys import IssuerKey
from connections.models.mailboxes import MailboxAccess, SharedMailbox
from connections.models.notifications import Notification
from connections.models.policy import Approval, Policy
from connections.models.references import ConnectionReference
from connections.models.resource_tokens import ResourceToken
from connections.models.reviews import AccessReview, ReviewItem, ReviewPlan
from connections.models.saved_views import SavedView
from connections.models.second_factors import RecoveryCode, SecondFactor
from connections.models.sessions import Session
from connections.models.setup import SetupDecision
from connections.models.sharing import Share, Team, TeamMember
from connections.models.sign_in_limits import SignInLimit
from connections.models.sign_in_links import SignInLink
from connections.models.stored_replies import StoredReply
from connections.models.tags import ConnectionTag
from connections.models.tallies import Tally
from connections.models.tenants import Tenant
