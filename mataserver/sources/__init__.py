"""Sources of models: the hub, pip packages, local paths, and those of plugins.

huggingface_hub is never imported into the server: network access runs in a child process
(``fetch``), and the cache on disk is read by its documented layout (``cache``). So do the sources
of plugins (``source_child``), whose models are kept in a folder of the server (``pulled``).
"""
