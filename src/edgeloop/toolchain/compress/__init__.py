"""The search for the best small models under a person's bounds: propose, try, record, choose."""
