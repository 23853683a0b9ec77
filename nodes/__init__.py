"""What people run: the command line, and the composition of protocol and pets into something that works."""
