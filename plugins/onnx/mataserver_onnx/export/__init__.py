"""``mataserver export``: converts a checkpoint of transformers to an ONNX or OpenVINO model.

``photo.jpg`` is a portrait of the astronaut Eileen Collins by NASA, in the public domain; NASA does
not endorse this project, and neither does the person shown.
"""
