"""The client side of the uplink: identity, the verbs, trust, the durable outbox."""
