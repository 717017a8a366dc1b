"""What the cloud keeps: tables behind SQLAlchemy, blobs behind obstore. One file a noun."""
