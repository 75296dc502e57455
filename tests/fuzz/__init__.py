"""Fuzz tests: every reader of untrusted input gets damaged samples. docs/development/testing.md describes them."""
