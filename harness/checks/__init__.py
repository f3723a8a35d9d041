"""Conformance tests for plugins and sampling engines."""
