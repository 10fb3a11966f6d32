# Writes abi_table.inc: for each struct of lowrank.h a row with its size, then a row a field with its offset, as the compiler sees them.
# Struct and field names are read from the header, so a new struct is in the table by being declared.
set(header ${CMAKE_SOURCE_DIR}/native/abi/lowrank.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${header})
file(READ ${header} text)
string(REPLACE ";" "|" text "${text}") # a semicolon would end an element of a CMake list
string(REGEX MATCHALL "\nstruct [A-Za-z0-9]+ {[^}]*}" structs "${text}")
set(rows "")
foreach(struct IN LISTS structs)
  string(REGEX MATCH "struct ([A-Za-z0-9]+) {([^}]*)}" all "${struct}")
  set(type ${CMAKE_MATCH_1})
  string(REGEX MATCHALL "[a-z_0-9]+[,|]" fields "${CMAKE_MATCH_2}") # a name is what a comma or a semicolon follows
  string(APPEND rows "{\"${type}\", nullptr, sizeof(${type})},\n")
  foreach(field IN LISTS fields)
    string(REGEX REPLACE "[,|]" "" field ${field})
    string(APPEND rows "{\"${type}\", \"${field}\", offsetof(${type}, ${field})},\n")
  endforeach()
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/abi_table.inc CONTENT "${rows}" @ONLY)
