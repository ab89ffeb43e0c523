"""What the command line can do, one file a command; cli.py makes the command line from them."""
