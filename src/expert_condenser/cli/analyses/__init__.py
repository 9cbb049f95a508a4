"""What stands behind `condenser analyze`: a session, and what each analysis does in it."""
