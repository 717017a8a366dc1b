"""The loops that people write by hand, as in every tutorial: OpenCV reads, LiteRT's interpreter runs, NumPy decides.

Each `make` does once what a careful person does once (load the model, allocate, look the tensors up, build tables)
and returns the loop's body. It is honest work: vectorised NumPy, float32, nothing computed that is not needed, one
thread of the interpreter; it is no library: it copies tensors in and out with `set_tensor` and `get_tensor`, and
decodes and resizes with OpenCV's plain calls. They differ from the tutorials in what they leave out alone: no print,
no drawing, no timing. OpenCV's own threads are the measuring process's to set (`cv2.setNumThreads(1)`).
"""
