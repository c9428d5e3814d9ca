"""The URL table: social-auth's two views, Django's admin and the portal."""

from django.contrib import admin
from django.urls import include, path
from social_django import views as social

from connections.api.urls import routes as api
from connections.views import accounts

# Only two of social-auth's URLs, for going to Microsoft and back. The others would let people disconnect their account
# from their directory without an audit event, and then return as a new account.
sign_in_at_microsoft = [
    path("login/<str:backend>/", accounts.microsoft, name="begin"),
    path("complete/<str:backend>/", social.complete, name="complete"),
]

handler500 = "connections.views.server_errors.server_error"

urlpatterns = [
    path("auth/", include((sign_in_at_microsoft, "social"))),
    # Replaces the admin site's own sign-in page, which would sign people in without an audit event.
    path("admin/login/", accounts.admin_sign_in, name="admin_sign_in"),
    # Also replaces its sign-out and its page for changing one's password.
    path("admin/logout/", accounts.sign_out, name="admin_sign_out"),
    path("admin/password_change/", accounts.admin_password, name="admin_password"),
    path("admin/", admin.site.urls),
    path("api/v1/", api),
    path("", include("connections.urls")),
]
