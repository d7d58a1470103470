"""What a study says, as plain typed records. Pure functions of the store's records: no colour, no markup."""
