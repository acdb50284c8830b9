"""flaxmobile against its peers on a CPU: the same network, weights, images and threads, timed in turn."""
