# # Cross-compiling for the boards
# A toolchain file for aarch64 Debian. NPUBLAS_AARCH64 (environment) is a folder with
#   root/    an unpacked aarch64 system that has Python and its headers
#   python   an executable that runs that Python here, through qemu
# as `.ci/aarch64` makes it. CMake then asks the target's own interpreter for everything.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(root "$ENV{NPUBLAS_AARCH64}/root")
file(GLOB python_headers "${root}/usr/include/python3.*")
# Debian's pyconfig.h includes <aarch64-linux-gnu/python3.x/pyconfig.h>.
set(CMAKE_CXX_FLAGS_INIT "-idirafter ${root}/usr/include")
set(Python_EXECUTABLE "$ENV{NPUBLAS_AARCH64}/python" CACHE FILEPATH "" FORCE)
set(Python_INCLUDE_DIR "${python_headers}" CACHE PATH "" FORCE)
