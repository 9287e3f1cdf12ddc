# The library, the public headers and the package that find_package(syncbn) reads. A wheel has the
# same layout below the folder of the Python package.
include(CMakePackageConfigHelpers)

set(syncbn_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/syncbn")

install(TARGETS syncbn EXPORT syncbnTargets
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT syncbnTargets NAMESPACE syncbn:: DESTINATION "${syncbn_package_dir}")

configure_package_config_file(
  "${CMAKE_CURRENT_LIST_DIR}/syncbnConfig.cmake.in" "${PROJECT_BINARY_DIR}/syncbnConfig.cmake"
  INSTALL_DESTINATION "${syncbn_package_dir}"
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/syncbnConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/syncbnConfig.cmake"
              "${PROJECT_BINARY_DIR}/syncbnConfigVersion.cmake"
        DESTINATION "${syncbn_package_dir}")
