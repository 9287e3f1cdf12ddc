/* The one place that states the version; CMake and the Python package read it from here. */
#ifndef SYNCNORM_VERSION_H_
#define SYNCNORM_VERSION_H_

#define SYNCNORM_VERSION_MAJOR 0
#define SYNCNORM_VERSION_MINOR 1
#define SYNCNORM_VERSION_PATCH 0

#endif /* SYNCNORM_VERSION_H_ */
