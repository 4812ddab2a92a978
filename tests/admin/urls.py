"""Two admin sites side by side, neither of them called 'admin'."""

from django.contrib.admin import AdminSite
from django.urls import path

from djtasks.admin import register

staff = AdminSite(name="staff")
ops = AdminSite(name="ops")
register(staff)
register(ops)

urlpatterns = [path("staff/", staff.urls), path("ops/", ops.urls)]
