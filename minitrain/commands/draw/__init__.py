"""Figures for a report, a lecture or a README: a file for each, and `python -m minitrain draw WHAT` for all of them."""
