"""One running node: a replica, its log and state, and the requests that wait for them."""
