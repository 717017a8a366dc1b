"""Networks that edgeloop trains itself: functional Keras models with layers named "features" and "logits"."""
