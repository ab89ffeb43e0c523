"""Training runs that are killed and signalled at any moment, and what can be continued then: python -m tests.kill"""
