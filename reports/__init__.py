"""Stored rows to tables and pages."""
