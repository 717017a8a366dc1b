"""A fleet that is not there: true uplinks without engines, against a real cloud."""
