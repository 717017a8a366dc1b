"""The client side of the uplink: identity, the five verbs, trust, the durable outbox."""
