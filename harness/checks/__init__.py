"""Conformance checks of plugins and sampling engines: what `bench check` runs."""
