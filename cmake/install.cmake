# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)

# Components, each a package (cmake/packages.cmake): library, development, command.
install(TARGETS stillmap_shared stillmap_static EXPORT stillmap-targets
  FILE_SET HEADERS COMPONENT development
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT development
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(EXPORT stillmap-targets NAMESPACE stillmap:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/stillmap
  COMPONENT development)
configure_package_config_file(cmake/stillmap-config.cmake.in ${PROJECT_BINARY_DIR}/stillmap-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/stillmap)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/stillmap-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/stillmap-config.cmake ${PROJECT_BINARY_DIR}/stillmap-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/stillmap COMPONENT development)

# The prefix is where the file was installed, whatever prefix was configured.
file(RELATIVE_PATH STILLMAP_PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" STILLMAP_PC_TO_PREFIX "${STILLMAP_PC_TO_PREFIX}")
configure_file(cmake/stillmap.pc.in ${PROJECT_BINARY_DIR}/stillmap.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/stillmap.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
