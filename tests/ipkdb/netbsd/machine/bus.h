/* The types of bus_space(9) that the machine-dependent part of IPKDB needs. */
typedef int		bus_space_tag_t;
typedef unsigned long	bus_space_handle_t;
