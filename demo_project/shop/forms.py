"""What each page asks for."""

from __future__ import annotations

from django import forms

from demo_project.shop.models import Customer


class SignUpForm(forms.ModelForm):
    class Meta:
        model = Customer
        fields = ("name", "email")


class PaymentForm(forms.Form):
    amount = forms.DecimalField(min_value=1, max_value=1000, decimal_places=2, initial="19.90", label="Amount in €")


class SumForm(forms.Form):
    below = forms.IntegerField(min_value=2, max_value=50_000_000, initial=20_000_000, label="All primes below")
