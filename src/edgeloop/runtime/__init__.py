"""Run a bundle anywhere: preprocess, engine, postprocess; replay its golden samples."""
