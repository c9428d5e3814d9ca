"""The portal's settings with social-auth set up as in its documentation, for the comparison."""

from portal.sandbox import seed
from portal.settings import *  # noqa: F403
from portal.settings import MICROSOFT_CA_BUNDLE, MICROSOFT_SANDBOX_URL

SOCIAL_AUTH_STRATEGY = "social_django.strategy.DjangoStrategy"
AUTHENTICATION_BACKENDS = ["social_core.backends.azuread_tenant.AzureADV2TenantOAuth2"]
SOCIAL_AUTH_AZUREAD_V2_TENANT_OAUTH2_KEY = seed.CONNECTIONS_APP
SOCIAL_AUTH_AZUREAD_V2_TENANT_OAUTH2_SECRET = seed.CONNECTIONS_SECRET
SOCIAL_AUTH_AZUREAD_V2_TENANT_OAUTH2_TENANT_ID = seed.CONTOSO
SOCIAL_AUTH_AZUREAD_V2_TENANT_OAUTH2_AUTHORITY_HOST = MICROSOFT_SANDBOX_URL.removeprefix("https://")
SOCIAL_AUTH_VERIFY_SSL = MICROSOFT_CA_BUNDLE
