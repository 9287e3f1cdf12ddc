/* The one place that states the version; CMake and the Python package read it from here. */
#ifndef SYNCBN_VERSION_H_
#define SYNCBN_VERSION_H_

#define SYNCBN_VERSION_MAJOR 0
#define SYNCBN_VERSION_MINOR 1
#define SYNCBN_VERSION_PATCH 0

#endif /* SYNCBN_VERSION_H_ */
