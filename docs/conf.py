"""The site of the documentation: `make docs`."""

import os

import django

import djtasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_project.settings")
os.environ.setdefault("DEBUG", "true")
django.setup()

project = "djtasks"
release = version = djtasks.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["images"]
html_theme = "furo"
html_title = "djtasks"
myst_heading_anchors = 3  # so that links to headings work here as they do where the files are read as they are
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "undoc-members": False}
nitpicky = False
