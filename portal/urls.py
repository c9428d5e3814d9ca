"""The URL table: social-auth's two stations, Django's admin, and the product."""

from django.contrib import admin
from django.urls import include, path
from social_django import views as social

from connections.api.urls import routes as api
from connections.views import accounts

# Of social-auth's URLs only the way to Microsoft and back. Its others would let people cut their account from their
# directory, without a trace in the audit trail, and come back as somebody new.
sign_in_at_microsoft = [
    path("login/<str:backend>/", social.auth, name="begin"),
    path("complete/<str:backend>/", social.complete, name="complete"),
]

urlpatterns = [
    path("auth/", include((sign_in_at_microsoft, "social"))),
    # In place of the admin site's own sign-in page, which would let people in past the audit trail.
    path("admin/login/", accounts.admin_sign_in, name="admin_sign_in"),
    path("admin/", admin.site.urls),
    path("api/v1/", api),
    path("", include("connections.urls")),
]
