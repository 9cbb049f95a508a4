"""`condenser report`: runs, a comparison or a study as one page that needs nothing else; nothing is computed here."""
