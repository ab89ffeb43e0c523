"""The commands of the command line, one file per command; cli.py assembles them."""
