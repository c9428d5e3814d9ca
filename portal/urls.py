"""The URL table: social-auth's callback, Django's admin, and the product."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("auth/", include("social_django.urls", namespace="social")),
    path("admin/", admin.site.urls),
    path("", include("connections.urls")),
]
