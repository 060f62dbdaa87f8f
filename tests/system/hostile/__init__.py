"""What one client may send without harm to any other: each case against one node and three."""
