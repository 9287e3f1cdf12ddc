# The library, the public headers, the package that find_package(syncnorm) reads and what pkg-config
# reads. A wheel has the same layout below the folder of the Python package.
include(CMakePackageConfigHelpers)

set(syncnorm_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/syncnorm")
set(syncnorm_pkgconfig_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

install(TARGETS syncnorm EXPORT syncnormTargets
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT syncnormTargets NAMESPACE syncnorm:: DESTINATION "${syncnorm_package_dir}")

configure_package_config_file(
  "${CMAKE_CURRENT_LIST_DIR}/syncnormConfig.cmake.in" "${PROJECT_BINARY_DIR}/syncnormConfig.cmake"
  INSTALL_DESTINATION "${syncnorm_package_dir}"
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/syncnormConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/syncnormConfig.cmake"
              "${PROJECT_BINARY_DIR}/syncnormConfigVersion.cmake"
        DESTINATION "${syncnorm_package_dir}")

# Every path in it is relative to the file itself, so that what is installed may be moved.
function(syncnorm_path_from_pkgconfig result folder)
  set(here "${syncnorm_pkgconfig_dir}")
  cmake_path(ABSOLUTE_PATH here BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}")
  cmake_path(ABSOLUTE_PATH folder BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}" NORMALIZE)
  cmake_path(RELATIVE_PATH folder BASE_DIRECTORY "${here}" OUTPUT_VARIABLE ${result})
  set(${result} "${${result}}" PARENT_SCOPE)
endfunction()
syncnorm_path_from_pkgconfig(to_prefix "${CMAKE_INSTALL_PREFIX}")
syncnorm_path_from_pkgconfig(to_lib "${CMAKE_INSTALL_LIBDIR}")
syncnorm_path_from_pkgconfig(to_include "${CMAKE_INSTALL_INCLUDEDIR}")
configure_file("${CMAKE_CURRENT_LIST_DIR}/syncnorm.pc.in" "${PROJECT_BINARY_DIR}/syncnorm.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/syncnorm.pc" DESTINATION "${syncnorm_pkgconfig_dir}")
