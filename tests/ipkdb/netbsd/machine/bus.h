/* As much of bus_space(9) as a port of IPKDB needs. */
typedef int		bus_space_tag_t;
typedef unsigned long	bus_space_handle_t;
