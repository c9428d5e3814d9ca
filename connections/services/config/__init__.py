"""Configuration as code: read the portal into one file, plan what a file would change, and apply the plan.

A plan changes nothing; applying a file twice changes nothing the second time.
"""
