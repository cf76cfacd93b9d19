"""For tests of programs that use the NPU: the simulator, and control over it."""
