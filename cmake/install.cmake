# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)

install(TARGETS stillmap_shared stillmap_static EXPORT stillmap-targets FILE_SET HEADERS
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT stillmap-targets NAMESPACE stillmap:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/stillmap)
configure_package_config_file(cmake/stillmap-config.cmake.in ${PROJECT_BINARY_DIR}/stillmap-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/stillmap)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/stillmap-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/stillmap-config.cmake ${PROJECT_BINARY_DIR}/stillmap-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/stillmap)
configure_file(cmake/stillmap.pc.in ${PROJECT_BINARY_DIR}/stillmap.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/stillmap.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
