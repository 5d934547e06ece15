"""A deterministic simulation: the client, its limiter and its journal against a model of the service, on virtual time.

A seed draws a scenario; the scenario decides everything that happens, so that a failing seed fails again.
"""
