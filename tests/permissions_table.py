"""The permission table: the HTTP status of every URL for every role.

The columns after the method are: nobody (not signed in); bob, who owns the connection and registered the mailbox; una,
who may use it through a share; max, who may manage it through a share; tina, whose team may use it; eve, whose share
has expired; dave, a stranger; alice, an IT admin; carol, an auditor. ``in`` means a redirect to the sign-in page, 404
"not visible" and 403 "visible but not allowed"; an allowed and valid POST gives 302. If a page has only one line, it does
not allow the other method: the result is ``in`` for nobody and 405 for everybody else.

API routes have their own table with one line per method; there everybody uses an API key with all scopes, and "nobody"
has no key.
"""

from collections.abc import Iterator
from dataclasses import dataclass

PEOPLE = ("nobody", "bob", "una", "max", "tina", "eve", "dave", "alice", "carol")

#                                             nobody
#                                             |   bob: owner
#                                             |   |   una: shared, use
#                                             |   |   |   max: shared, manage
#                                             |   |   |   |   tina: shared with her team
#                                             |   |   |   |   |   eve: share expired
#                                             |   |   |   |   |   |   dave: stranger
#                                             |   |   |   |   |   |   |   alice: IT admin
#                                             |   |   |   |   |   |   |   |   carol: auditor
TABLE = """
home                                  GET    in  200 200 200 200 200 200 200 200
search                                GET    in  200 200 200 200 200 200 200 200
sign_in                               GET    200 302 302 302 302 302 302 302 302
sign_in                               POST   422 302 302 302 302 302 302 302 302
sign_out                              POST   in  302 302 302 302 302 302 302 302
account                               GET    in  200 200 200 200 200 200 200 200
account                               POST   in  302 302 302 302 302 302 302 302
second_factor                         GET    302 302 302 302 302 302 302 302 302
second_factor                         POST   302 302 302 302 302 302 302 302 302
sessions                              GET    in  200 200 200 200 200 200 200 200
session_end                           POST   in  302 302 302 302 302 302 302 302
sessions_end_all                      POST   in  302 302 302 302 302 302 302 302
change_password                       GET    in  200 200 200 200 200 200 200 200
change_password                       POST   in  302 302 302 302 302 302 302 302
confirm_identity                      GET    in  200 200 200 200 200 200 200 200
confirm_identity                      POST   in  302 302 302 302 302 302 302 302
confirm_continue                      GET    in  302 302 302 302 302 302 302 302
security                              GET    in  200 200 200 200 200 200 200 200
second_factor_add_app                 GET    in  200 200 200 200 200 200 200 200
second_factor_add_app                 POST   in  200 200 200 200 200 200 200 200
second_factor_add_passkey             GET    in  200 200 200 200 200 200 200 200
second_factor_add_passkey             POST   in  422 422 422 422 422 422 422 422
recovery_codes                        POST   in  200 302 302 302 302 302 302 302
second_factor_remove                  POST   in  302 404 404 404 404 404 404 404
notifications                         GET    in  200 200 200 200 200 200 200 200
notifications_read                    POST   in  302 302 302 302 302 302 302 302
notification_open                     POST   in  302 404 404 404 404 404 404 404
notification_read                     POST   in  302 404 404 404 404 404 404 404
setup_confirm                         POST   in  403 403 403 403 403 403 302 403
setup_reopen                          POST   in  403 403 403 403 403 403 302 403
account_alerts                        GET    in  200 200 200 200 200 200 200 200
account_alerts                        POST   in  302 302 302 302 302 302 302 302
account_alerts_test                   POST   in  302 302 302 302 302 302 302 302

access_matrix                         GET    in  403 403 403 403 403 403 200 200
access_matrix_export                  POST   in  403 403 403 403 403 403 200 200

tenants                               GET    in  200 200 200 200 200 200 200 200
tenant_add                            GET    in  403 403 403 403 403 403 200 403
tenant_add                            POST   in  403 403 403 403 403 403 302 403
tenant                                GET    in  200 200 200 200 200 200 200 200
tenant_edit                           GET    in  403 403 403 403 403 403 200 403
tenant_edit                           POST   in  403 403 403 403 403 403 302 403
tenant_remove                         GET    in  403 403 403 403 403 403 200 403
tenant_remove                         POST   in  403 403 403 403 403 403 302 403

apps                                  GET    in  200 200 200 200 200 200 200 200
app_add                               GET    in  403 403 403 403 403 403 200 403
app_add                               POST   in  403 403 403 403 403 403 302 403
app                                   GET    in  200 200 200 200 200 200 200 200
app_edit                              GET    in  403 403 403 403 403 403 200 403
app_edit                              POST   in  403 403 403 403 403 403 302 403
app_remove                            GET    in  403 403 403 403 403 403 200 403
app_remove                            POST   in  403 403 403 403 403 403 302 403
app_verify                            POST   in  403 403 403 403 403 403 302 403
app_script                            GET    in  403 403 403 403 403 403 200 403
credential_add                        GET    in  403 403 403 403 403 403 200 403
credential_add                        POST   in  403 403 403 403 403 403 302 403
credential_next                       POST   in  403 403 403 403 403 403 302 403
credential_retire                     GET    in  403 403 403 403 403 403 200 403
credential_retire                     POST   in  403 403 403 403 403 403 302 403
credential_expiry                     POST   in  403 403 403 403 403 403 302 403
credential_certificate                GET    in  403 403 403 403 403 403 200 200
app_consents                          GET    in  403 403 403 403 403 403 200 200
app_consents                          POST   in  403 403 403 403 403 403 302 403
app_consent_check                     POST   in  403 403 403 403 403 403 302 403
app_consent_remove                    POST   in  403 403 403 403 403 403 302 403
consent_start                         GET    in  403 403 403 403 403 403 200 200
consent_start                         POST   in  403 403 403 403 403 403 302 403
consent_callback                      GET    400 400 400 400 400 400 400 400 400
consent_callback                      POST   405 405 405 405 405 405 405 405 405

connections                           GET    in  200 200 200 200 200 200 200 200
connect                               GET    in  200 200 200 200 200 200 200 403
connect_service                       GET    in  200 200 200 200 200 200 200 403
connect_service                       POST   in  302 302 302 302 302 302 302 403
connect_new_app                       GET    in  403 403 403 403 403 403 200 403
connect_new_app                       POST   in  403 403 403 403 403 403 302 403
connection_choose                     GET    in  302 302 302 302 302 302 302 302
connection                            GET    in  200 200 200 200 404 404 200 200
consent_request_add                        GET    in  200 403 200 403 404 404 403 403
consent_request_add                        POST   in  302 403 302 403 404 404 403 403
reviews                               GET    in  200 200 200 200 200 200 200 200
review_add                            GET    in  403 403 403 403 403 403 200 403
review_add                            POST   in  403 403 403 403 403 403 302 403
review_plan                           POST   in  403 403 403 403 403 403 302 403
review                                GET    in  200 404 404 404 404 404 200 200
review                                POST   in  302 404 404 404 404 404 403 403
review_cancel                         GET    in  403 404 404 404 404 404 200 403
review_cancel                         POST   in  403 404 404 404 404 404 302 403
review_report                         GET    in  403 404 404 404 404 404 200 200
review_export                         POST   in  403 404 404 404 404 404 200 200
requests                              GET    in  200 200 200 200 200 200 200 200
consent_request                       GET    in  200 404 404 404 404 404 200 200
consent_request_approve               POST   in  403 404 404 404 404 404 302 403
consent_request_decline               POST   in  403 404 404 404 404 404 302 403
consent_request_withdraw              POST   in  302 404 404 404 404 404 403 403
connection_edit                       GET    in  200 403 200 403 404 404 403 403
connection_edit                       POST   in  302 403 302 403 404 404 403 403
connection_sign_in                    POST   in  302 403 302 403 404 404 403 403
connection_sign_in_link               POST   in  200 403 200 403 404 404 403 403
sign_in_link                          GET    410 410 410 410 410 410 410 410 410
sign_in_link                          POST   410 410 410 410 410 410 410 410 410
sign_in_link_done                     GET    200 200 200 200 200 200 200 200 200
sign_in_link_done                     POST   405 405 405 405 405 405 405 405 405
connection_check                      POST   in  302 403 302 403 404 404 302 403
connection_tags                       POST   in  302 403 302 403 404 404 302 403
connection_columns                    POST   in  302 302 302 302 302 302 302 302
connection_export                     POST   in  200 200 200 200 200 200 200 200
bulk_actions                          GET    in  200 200 200 200 200 200 200 200
bulk_action_add                       POST   in  302 302 302 302 302 302 302 403
bulk_action                           GET    in  200 404 404 404 404 404 404 404
bulk_action_preview                   POST   in  302 404 404 404 404 404 404 404
bulk_action_start                     POST   in  302 404 404 404 404 404 404 404
bulk_action_stop                      POST   in  302 404 404 404 404 404 404 404
connection_disable                    POST   in  302 403 403 403 404 404 302 403
connection_enable                     POST   in  302 403 403 403 404 404 302 403
connection_remove                     GET    in  200 403 403 403 404 404 200 403
connection_remove                     POST   in  302 403 403 403 404 404 302 403
connection_hand_over                  GET    in  200 403 403 403 404 404 200 403
connection_hand_over                  POST   in  302 403 403 403 404 404 302 403
mailbox_attach                        GET    in  200 403 200 403 404 404 403 403
mailbox_attach                        POST   in  302 403 302 403 404 404 403 403
mailbox_probe_all                     POST   in  302 403 302 403 404 404 302 403
mailbox_permission                    POST   in  302 403 302 403 404 404 403 403
mailbox_powershell                      GET    in  200 200 200 200 404 404 200 200
mailbox_send                          GET    in  200 403 200 403 404 404 403 403
mailbox_send                          POST   in  302 403 302 403 404 404 403 403
mailbox_probe                         POST   in  302 403 302 403 404 404 302 403
mailbox_detach                        POST   in  302 403 302 403 404 404 403 403
documentation                         GET    in  200 200 200 200 200 200 200 200
documentation_page                    GET    in  200 200 200 200 200 200 200 200
documentation_picture                 GET    in  200 200 200 200 200 200 200 200
documentation_search                  GET    in  200 200 200 200 200 200 200 200

microsoft_errors                      GET    200 200 200 200 200 200 200 200 200
microsoft_errors                      POST   200 200 200 200 200 200 200 200 200

references                            GET    in  200 200 200 200 200 200 200 200
reference_add                         GET    in  200 200 200 200 200 200 200 403
reference_add                         POST   in  302 302 302 302 422 422 302 403
reference                             GET    in  200 200 200 200 404 404 200 200
reference_edit                        GET    in  200 403 403 403 404 404 200 403
reference_edit                        POST   in  302 403 403 403 404 404 302 403
reference_point                       GET    in  200 403 403 403 404 404 200 403
reference_point                       POST   in  302 403 403 403 404 404 302 403
reference_remove                      GET    in  200 403 403 403 404 404 200 403
reference_remove                      POST   in  302 403 403 403 404 404 302 403
connection_default                    POST   in  302 302 302 302 404 404 403 403

mailboxes                             GET    in  200 200 200 200 200 200 200 200
mailbox_add                           GET    in  200 200 200 200 200 200 200 403
mailbox_add                           POST   in  302 302 302 302 302 302 302 403
mailbox                               GET    in  200 200 200 200 200 200 200 200
mailbox_test                          POST   in  302 403 302 403 403 403 302 403
mailbox_edit                          GET    in  200 403 403 403 403 403 200 403
mailbox_edit                          POST   in  302 403 403 403 403 403 302 403
mailbox_remove                        GET    in  200 403 403 403 403 403 200 403
mailbox_remove                        POST   in  302 403 403 403 403 403 302 403

share_add                             GET    in  200 403 200 403 404 404 200 403
share_add                             POST   in  302 403 302 403 404 404 302 403
share_emergency                       GET    in  403 403 403 403 404 404 200 403
share_emergency                       POST   in  403 403 403 403 404 404 302 403
share_end                             POST   in  302 403 302 403 404 404 302 403
teams                                 GET    in  200 200 200 200 200 200 200 200
team_add                              GET    in  403 403 403 403 403 403 200 403
team_add                              POST   in  403 403 403 403 403 403 302 403
team                                  GET    in  200 200 200 200 200 200 200 200
team_edit                             GET    in  403 403 403 403 403 403 200 403
team_edit                             POST   in  403 403 403 403 403 403 302 403
team_remove                           GET    in  403 403 403 403 403 403 200 403
team_remove                           POST   in  403 403 403 403 403 403 302 403
team_member_add                       POST   in  403 403 403 403 403 403 302 403
team_member_remove                    POST   in  403 403 403 403 403 403 302 403

people                                GET    in  403 403 403 403 403 403 200 200
person                                GET    in  403 403 403 403 403 403 200 200
person_disable                        GET    in  403 403 403 403 403 403 200 403
person_disable                        POST   in  403 403 403 403 403 403 302 403
person_enable                         POST   in  403 403 403 403 403 403 302 403
person_sign_out                       POST   in  403 403 403 403 403 403 302 403
person_hand_over                      GET    in  403 403 403 403 403 403 200 403
person_hand_over                      POST   in  403 403 403 403 403 403 302 403

api_keys                              GET    in  200 200 200 200 200 200 200 200
api_key_add                           GET    in  200 200 200 200 200 200 200 200
api_key_add                           POST   in  200 200 200 200 200 200 200 200
api_key                               GET    in  200 404 404 404 404 404 200 200
api_key_revoke                        GET    in  200 404 404 404 404 404 200 403
api_key_revoke                        POST   in  302 404 404 404 404 404 302 403
api_key_rotate                        GET     in 200 404 404 404 404 404 403 403
api_key_rotate                        POST    in 200 404 404 404 404 404 403 403
api_key_revoke_previous                  POST    in 302 404 404 404 404 404 302 403
api_key_limit                         POST    in 403 404 404 404 404 404 302 403

service_accounts                      GET     in 200 200 200 200 200 200 200 200
service_account_add                   GET     in 403 403 403 403 403 403 200 403
service_account_add                   POST    in 403 403 403 403 403 403 302 403
service_account                       GET     in 404 404 404 404 404 404 200 200
service_account_edit                  GET     in 404 404 404 404 404 404 200 403
service_account_edit                  POST    in 404 404 404 404 404 404 302 403
service_account_key_add               GET     in 404 404 404 404 404 404 200 403
service_account_key_add               POST    in 404 404 404 404 404 404 200 403
service_account_disable               POST    in 404 404 404 404 404 404 302 403
service_account_enable                POST    in 404 404 404 404 404 404 302 403
service_account_remove                GET     in 404 404 404 404 404 404 200 403
service_account_remove                POST    in 404 404 404 404 404 404 302 403

api:openapi-json                      GET    200 200 200 200 200 200 200 200 200
api:openapi-json                      POST   405 405 405 405 405 405 405 405 405
api:reference                         GET    200 200 200 200 200 200 200 200 200
api:reference                         POST   405 405 405 405 405 405 405 405 405
api:api-root                          GET    404 404 404 404 404 404 404 404 404
api:api-root                          POST   405 405 405 405 405 405 405 405 405

incidents                             GET    in  200 200 200 200 200 200 200 200
incident                              GET    in  200 200 200 200 404 404 200 200
incident_add_tenant                   POST   in  403 403 403 403 404 404 302 403

alerts                                GET    in  403 403 403 403 403 403 200 403
alerts_retry                          POST   in  403 403 403 403 403 403 302 403
alert_retry                           POST   in  403 403 403 403 403 403 302 403
alert_channels                        GET    in  403 403 403 403 403 403 200 403
alert_channel_add                     GET    in  403 403 403 403 403 403 200 403
alert_channel_add                     POST   in  403 403 403 403 403 403 302 403
alert_channel                         GET    in  403 403 403 403 403 403 200 403
alert_channel_edit                    GET    in  403 403 403 403 403 403 200 403
alert_channel_edit                    POST   in  403 403 403 403 403 403 302 403
alert_channel_disable                 POST   in  403 403 403 403 403 403 302 403
alert_channel_enable                  POST   in  403 403 403 403 403 403 302 403
alert_channel_remove                  GET    in  403 403 403 403 403 403 200 403
alert_channel_remove                  POST   in  403 403 403 403 403 403 302 403
alert_channel_test                    POST   in  403 403 403 403 403 403 302 403
alert_channel_secret                  POST   in  403 403 403 403 403 403 200 403

picker/recipients                     GET    in  200 200 200 200 200 200 200 200
picker/recipients                     POST   in  405 405 405 405 405 405 405 405
picker/owners                         GET    in  200 200 200 200 200 200 200 200
picker/people                         GET    in  403 403 403 403 403 403 200 403
picker/nobody                         GET    in  404 404 404 404 404 404 404 404

policy                                GET    in  200 200 200 200 200 200 200 200
policy                                POST   in  403 403 403 403 403 403 302 403
policy_app                            GET    in  200 200 200 200 200 200 200 200
policy_app                            POST   in  403 403 403 403 403 403 302 403
policy_violations                     GET    in  403 403 403 403 403 403 200 200
approvals                             GET    in  302 302 302 302 302 302 302 302
approval                              GET    in  200 404 404 404 404 404 200 200
approval_approve                      POST   in  403 404 404 404 404 404 302 403
approval_decline                      POST   in  403 404 404 404 404 404 302 403
approval_withdraw                     POST   in  302 404 404 404 404 404 403 403
change_requests                       GET    in  302 302 302 302 302 302 302 302
change_request                        GET    in  200 404 404 404 404 200 200 200
change_request_approve                POST   in  302 404 404 404 404 403 302 403
change_request_decline                POST   in  302 404 404 404 404 403 302 403
change_request_withdraw               POST   in  403 404 404 404 404 302 403 403
change_request_carry_out              POST   in  403 404 404 404 404 302 403 403
approval_ask                          GET    in  200 403 200 403 404 404 403 403
approval_ask                          POST   in  302 403 302 403 404 404 403 403
connection_finish                    POST   in  302 403 302 403 404 404 403 403

expiries                              GET    in  200 200 200 200 200 200 200 200

audit                                 GET    in  403 403 403 403 403 403 200 200
audit_event                           GET    in  403 403 403 403 403 403 200 200
audit_seals                           GET    in  403 403 403 403 403 403 200 200
audit_verification                    GET    in  403 403 403 403 403 403 200 200
audit_questions                       GET    in  403 403 403 403 403 403 200 200
audit_creators                        GET    in  403 403 403 403 403 403 200 200
audit_fetches                         GET    in  403 403 403 403 403 403 200 200
audit_changes                         GET    in  403 403 403 403 403 403 200 200
audit_scopes                          GET    in  403 403 403 403 403 403 200 200
audit_export                          POST   in  403 403 403 403 403 403 403 200
audit_verify                          POST   in  403 403 403 403 403 403 403 302
saved_view_add                        POST   in  403 403 403 403 403 403 302 302
saved_view_remove                     POST   in  404 404 404 404 404 404 404 302
access_history                        GET    in  403 403 403 403 403 403 200 200
access_export                         POST   in  403 403 403 403 403 403 403 200

openid_configuration                  GET    200 200 200 200 200 200 200 200 200
openid_configuration                  POST   405 405 405 405 405 405 405 405 405
jwks                                  GET    200 200 200 200 200 200 200 200 200
jwks                                  POST   405 405 405 405 405 405 405 405 405
healthz                               GET    200 200 200 200 200 200 200 200 200
healthz                               POST   405 405 405 405 405 405 405 405 405
readyz                                GET    503 503 503 503 503 503 503 503 503
readyz                                POST   405 405 405 405 405 405 405 405 405
metrics                               GET    200 200 200 200 200 200 200 200 200
metrics                               POST   405 405 405 405 405 405 405 405 405

admin_sign_out                        POST   in  302 302 302 302 302 302 302 302
admin_password                        GET    in  302 302 302 302 302 302 302 302
admin_password                        POST   in  302 302 302 302 302 302 302 302
admin_sign_in                         GET    in  403 403 403 403 403 403 403 403
admin_sign_in                         POST   in  403 403 403 403 403 403 403 403

social:begin/microsoft                GET    405 405 405 405 405 405 405 405 405
social:begin/microsoft                POST   302 302 302 302 302 302 302 302 302
social:begin/microsoft-connect        GET    405 405 405 405 405 405 405 405 405
social:begin/microsoft-connect        POST   400 400 400 400 400 400 400 400 400
social:begin/no-such-backend          POST   404 404 404 404 404 404 404 404 404
social:complete/microsoft             GET    400 400 400 400 400 400 400 400 400
social:complete/microsoft             POST   400 400 400 400 400 400 400 400 400
social:complete/microsoft-connect     GET    400 400 400 400 400 400 400 400 400
social:complete/microsoft-connect     POST   400 400 400 400 400 400 400 400 400
"""

API_TABLE = """
list_connections                      GET    401 200 200 200 200 200 200 200 200
read_me                               GET    401 200 200 200 200 200 200 200 200
add_connection                        POST   401 201 201 201 201 201 201 201 403
read_connection                       GET    401 200 200 200 200 404 404 200 200
change_connection                     PATCH  401 200 403 200 403 404 404 403 403
replace_tags                          PUT    401 200 403 200 403 404 404 200 403
remove_connection                     DELETE 401 204 403 403 403 404 404 204 403
fetch_token                           GET    401 200 200 200 200 404 404 403 403
check_connection                      POST   401 200 403 200 403 404 404 200 403
connect_connection                    POST   401 200 403 200 403 404 404 403 403
disable_connection                    POST   401 200 403 403 403 404 404 200 403
enable_connection                     POST   401 200 403 403 403 404 404 200 403
add_sign_in_link                      POST   401 201 403 201 403 404 404 403 403
list_shares                           GET    401 200 200 200 200 404 404 200 200
add_share                             POST   401 201 403 201 403 404 404 201 403
change_share                          PATCH  401 200 403 200 403 404 404 409 403
take_emergency_access                 POST   401 403 403 403 403 404 404 201 403
end_share                             DELETE 401 204 403 204 403 404 404 204 403
read_hand_over                        GET    401 200 403 403 403 404 404 200 403
hand_over                             POST   401 200 403 403 403 404 404 200 403
read_belongings                       GET    401 403 403 403 403 403 403 200 403
hand_over_all                         POST   401 403 403 403 403 403 403 200 403
list_attached                         GET    401 200 200 200 200 404 404 200 200
attach_mailbox                        POST   401 201 403 201 403 404 404 403 403
detach_mailbox                        DELETE 401 204 403 204 403 404 404 403 403
probe_mailboxes                       POST   401 200 403 200 403 404 404 200 403

list_references                       GET    401 200 200 200 200 200 200 200 200
add_reference                         POST   401 201 201 201 201 404 404 201 403
read_reference                        GET    401 200 200 200 200 404 404 200 200
change_reference                      PATCH  401 200 403 403 403 404 404 200 403
remove_reference                      DELETE 401 204 403 403 403 404 404 204 403
list_reference_keys                   GET    401 200 403 403 403 404 404 200 200

list_mailboxes                        GET    401 200 200 200 200 200 200 200 200
add_mailbox                           POST   401 201 201 201 201 201 201 201 403
read_mailbox                          GET    401 200 200 200 200 200 200 200 200
change_mailbox                        PATCH  401 200 403 403 403 403 403 200 403
remove_mailbox                        DELETE 401 409 403 403 403 403 403 409 403

list_incidents                        GET    401 200 200 200 200 200 200 200 200
read_incident                         GET    401 200 200 200 200 404 404 200 200

list_app_registrations                GET    401 200 200 200 200 200 200 200 200
add_app_registration                  POST   401 403 403 403 403 403 403 201 403
read_app_registration                 GET    401 200 200 200 200 200 200 200 200
change_app_registration               PATCH  401 403 403 403 403 403 403 200 403
remove_app_registration               DELETE 401 403 403 403 403 403 403 409 403
verify_app_registration               POST   401 403 403 403 403 403 403 200 403
list_app_consents                     GET    401 403 403 403 403 403 403 200 200
add_app_consent                       POST   401 403 403 403 403 403 403 201 403
check_app_consent                     POST   401 403 403 403 403 403 403 200 403
remove_app_consent                    DELETE 401 403 403 403 403 403 403 409 403
list_credentials                      GET    401 403 403 403 403 403 403 200 200
add_credential                        POST   401 403 403 403 403 403 403 201 403
retire_credential                     DELETE 401 403 403 403 403 403 403 204 403

list_consent_requests                 GET    401 200 200 200 200 200 200 200 200
ask_consent                           POST   401 201 403 201 403 404 404 403 403
read_consent_request                  GET    401 200 404 404 404 404 404 200 200
approve_consent_request               POST   401 403 404 404 404 404 404 200 403
decline_consent_request               POST   401 403 404 404 404 404 404 200 403

read_policy                           GET    401 200 200 200 200 200 200 200 200
read_app_policy                       GET    401 200 200 200 200 200 200 200 200
read_policy_violations                GET    401 403 403 403 403 403 403 200 200

list_approvals                        GET    401 200 200 200 200 200 200 200 200
ask_approval                          POST   401 422 403 422 403 404 404 403 403
read_approval                         GET    401 200 404 404 404 404 404 200 200
approve_approval                      POST   401 403 404 404 404 404 404 200 403
decline_approval                      POST   401 403 404 404 404 404 404 200 403
withdraw_approval                     POST   401 200 404 404 404 404 404 403 403

list_change_requests                  GET    401 200 200 200 200 200 200 200 200
read_change_request                   GET    401 200 404 404 404 404 200 200 200
approve_change_request                POST   401 200 404 404 404 404 403 200 403
decline_change_request                POST   401 200 404 404 404 404 403 200 403
withdraw_change_request               POST   401 403 404 404 404 404 200 403 403
carry_out_change_request              POST   401 403 404 404 404 404 409 403 403

list_reviews                          GET    401 200 200 200 200 200 200 200 200
start_review                          POST   401 403 403 403 403 403 403 201 403
read_review                           GET    401 200 404 404 404 404 404 200 200
list_review_items                     GET    401 200 404 404 404 404 404 200 200
answer_review                         POST   401 200 404 404 404 404 404 403 403
cancel_review                         POST   401 403 404 404 404 404 404 200 403
export_review                         GET    401 403 404 404 404 404 404 200 200

list_audit_events                     GET    401 403 403 403 403 403 403 200 200
export_audit_events                   GET    401 403 403 403 403 403 403 403 200
read_audit_event                      GET    401 403 403 403 403 403 403 200 200
list_audit_seals                      GET    401 403 403 403 403 403 403 200 200

list_tenants                          GET    401 200 200 200 200 200 200 200 200
add_tenant                            POST   401 403 403 403 403 403 403 201 403
read_tenant                           GET    401 200 200 200 200 200 200 200 200
change_tenant                         PATCH  401 403 403 403 403 403 403 200 403
remove_tenant                         DELETE 401 403 403 403 403 403 403 409 403
look_up_tenant                        POST   401 403 403 403 403 403 403 200 403

list_people                           GET    401 200 200 200 200 200 200 200 200
list_teams                            GET    401 200 200 200 200 200 200 200 200
add_team                              POST   401 403 403 403 403 403 403 201 403
read_team                             GET    401 200 200 200 200 200 200 200 200
change_team                           PATCH  401 403 403 403 403 403 403 200 403
remove_team                           DELETE 401 403 403 403 403 403 403 204 403
list_members                          GET    401 200 200 200 200 200 200 200 200
add_member                            PUT    401 403 403 403 403 403 403 200 403
remove_member                         DELETE 401 403 403 403 403 403 403 204 403
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the status for each of PEOPLE."""

    route: str
    method: str
    answers: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the URL's name, without the argument after a slash."""
        return self.route.partition("/")[0]

    def of(self, person: str) -> str:
        return self.answers[PEOPLE.index(person)]

    def __str__(self) -> str:
        return f"{self.method} {self.route}"


def rows() -> Iterator[Row]:
    """Yield all lines about pages, and the implied ones for the method that a page does not allow."""
    listed = list(_read(TABLE))
    known = {(row.route, row.method) for row in listed}
    for row in listed:
        other = "POST" if row.method == "GET" else "GET"
        yield row
        if (row.route, other) not in known and "/" not in row.route:
            yield Row(row.route, other, ("in", *["405"] * (len(PEOPLE) - 1)))


def api_rows() -> Iterator[Row]:
    return _read(API_TABLE, prefix="api:")


def _read(table: str, *, prefix: str = "") -> Iterator[Row]:
    for line in table.splitlines():
        if line.strip():
            route, method, *answers = line.split()
            assert len(answers) == len(PEOPLE), line
            yield Row(prefix + route, method, tuple(answers))
