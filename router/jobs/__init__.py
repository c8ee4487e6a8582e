"""What travels: the job, its encoding, and the decisions about its life."""
