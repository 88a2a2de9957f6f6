"""The fleet's certificate authority: its own process, its own key, its own database, its own log of who is a member."""
