# A Python package that can be imported from the build folder (PYTHONPATH=<build>/python): the
# sources as links, so that an edit shows at once, and the module beside them.
set(syncnorm_python_tree "${PROJECT_BINARY_DIR}/python/syncnorm")
file(MAKE_DIRECTORY "${syncnorm_python_tree}")
set(sources "${PROJECT_SOURCE_DIR}/python/syncnorm")
file(GLOB names CONFIGURE_DEPENDS RELATIVE "${sources}" "${sources}/*")
list(FILTER names EXCLUDE REGEX "^(__pycache__|_core\\.pyi)$")
foreach(name IN LISTS names)
  file(CREATE_LINK "${sources}/${name}" "${syncnorm_python_tree}/${name}" SYMBOLIC)
endforeach()
set_target_properties(_core PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${syncnorm_python_tree}")
