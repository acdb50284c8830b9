from tiny_run import blob_file, finished_run, tiny  # noqa: F401 - fixtures
