# SPDX-License-Identifier: Apache-2.0
#
# Debian packages, by `cpack` in the build folder: libstillmap0 (the shared library), libstillmap-dev (headers, static
# library, CMake package, pkg-config, manual section 3), stillmap (the command, the preload, sections 1 and 7).
# tools/package makes those that belong on a machine: configured for /usr, libraries in the multiarch folder.
if(NOT PROJECT_IS_TOP_LEVEL)
  return()
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME stillmap)
set(CPACK_PACKAGE_VENDOR stillmap)
set(CPACK_PACKAGE_CONTACT "The stillmap maintainers <stillmap@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_OUTPUT_FILE_PREFIX packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL library development)
if(TARGET still)
  list(APPEND CPACK_COMPONENTS_ALL command)
endif()

set(library_package libstillmap${PROJECT_VERSION_MAJOR})
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# The command needs the library that is built beside it, of which dpkg knows no package yet.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})

set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME ${library_package})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION
  "Gives a file's bytes as immutable memory, whatever anyone does to the file
meanwhile, at the cost of mmap or less. This is the shared library.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libstillmap-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
  "${library_package} (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}), libsimdjson-dev")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION
  "Headers for C and C++, the static library, the CMake package, the pkg-config
file and section 3 of the manual.")

set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME stillmap)
set(CPACK_DEBIAN_COMMAND_PACKAGE_SECTION utils)
set(CPACK_COMPONENT_COMMAND_DESCRIPTION
  "The still command: a grep, a cp, and a way to run unmodified programs, whose
bytes do not change under them.")

# What the policy wants in every package.
find_program(GZIP gzip)
if(GZIP)
  set(changelog ${PROJECT_BINARY_DIR}/changelog.gz)
  add_custom_command(OUTPUT ${changelog} DEPENDS ${PROJECT_SOURCE_DIR}/CHANGELOG.md VERBATIM
    COMMAND sh -c "\"$1\" -9nc \"$2\" >\"$3\"" sh ${GZIP} ${PROJECT_SOURCE_DIR}/CHANGELOG.md ${changelog})
  add_custom_target(changelog ALL DEPENDS ${changelog})
endif()
foreach(component IN LISTS CPACK_COMPONENTS_ALL)
  string(TOUPPER ${component} upper)
  set(documents ${CMAKE_INSTALL_DATAROOTDIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME})
  install(FILES ${PROJECT_SOURCE_DIR}/cmake/debian/copyright DESTINATION ${documents} COMPONENT ${component})
  if(GZIP)
    install(FILES ${changelog} DESTINATION ${documents} COMPONENT ${component})
  endif()
endforeach()

include(CPack)
