#include "kernel.h"

#define MAX_DEVICES 32
#define LOCATORS 2
#define BRIDGE_CLASS 0x0604

struct cfdriver mainbus_cd = {.cd_name = "mainbus"};
struct cfdriver pci_cd = {.cd_name = "pci"};
static struct cfdriver pchb_cd = {.cd_name = "pchb"};
static struct cfdriver pcib_cd = {.cd_name = "pcib"};
static struct cfdriver piixide_cd = {.cd_name = "piixide"};
static struct cfdriver ppb_cd = {.cd_name = "ppb"};
static struct cfdriver wm_cd = {.cd_name = "wm"};
static struct cfdriver virtio_cd = {.cd_name = "virtio"};
static struct cfdriver ahcisata_cd = {.cd_name = "ahcisata"};

/* The devices that the drivers support. Product 0xffff matches any; a device without a driver only has a name. */
static const struct known {
	uint16_t vendor, product;
	struct cfdriver *driver;
	const char *name;
} known[] = {
	{0x8086, 0x1237, &pchb_cd, "Intel 82441FX (PMC) PCI and Memory Controller"},
	{0x8086, 0x29c0, &pchb_cd, "Intel 82G33/G31/P35/P31 Express Host Bridge"},
	{0x8086, 0x7000, &pcib_cd, "Intel 82371SB (PIIX3) PCI-ISA Bridge"},
	{0x8086, 0x7010, &piixide_cd, "Intel 82371SB (PIIX3) IDE Interface"},
	{0x8086, 0x7113, NULL, "Intel 82371AB (PIIX4) Power Management Controller"},
	{0x8086, 0x2918, &pcib_cd, "Intel 82801IB LPC Interface Bridge"},
	{0x8086, 0x2922, &ahcisata_cd, "Intel 82801I SATA Controller"},
	{0x8086, 0x100e, &wm_cd, "Intel i82540EM 1000baseT Ethernet"},
	{0x1b36, 0x0001, &ppb_cd, "Red Hat PCI-PCI bridge"},
	{0x1af4, 0xffff, &virtio_cd, "Qumranet virtio device"},
};

struct devicelist alldevs = {.tqh_last = &alldevs.tqh_first};

static struct device devices[MAX_DEVICES];
static struct pci_softc buses[MAX_DEVICES];
static int locators[MAX_DEVICES][LOCATORS];
static unsigned int device_count;

static struct device *attach(struct cfdriver *driver, struct device *parent)
{
	if (device_count == MAX_DEVICES)
		return NULL;
	struct device *device = &devices[device_count];
	char *name = device->dv_xname;

	device->dv_cfdriver = driver;
	device->dv_unit = driver->cd_ndevs++;
	device->dv_parent = parent;
	device->dv_locators = locators[device_count++];
	for (const char *from = driver->cd_name; *from;)
		*name++ = *from++;
	/* Names are short, and there are fewer than 100 devices. */
	if (device->dv_unit >= 10)
		*name++ = (char)('0' + device->dv_unit / 10);
	*name = (char)('0' + device->dv_unit % 10);
	device->dv_list.tqe_prev = alldevs.tqh_last;
	*alldevs.tqh_last = device;
	alldevs.tqh_last = &device->dv_list.tqe_next;
	return device;
}

static struct device *attach_bus(unsigned int bus, struct device *parent)
{
	struct pci_softc *softc = &buses[pci_cd.cd_ndevs];
	struct device *device = attach(&pci_cd, parent);

	if (device) {
		*softc = (struct pci_softc){device, (int)bus};
		device->dv_private = softc;
		printf("%s at %s bus %u\n", device->dv_xname, parent->dv_xname, bus);
	}
	return device;
}

static const struct known *look_up(uint32_t id)
{
	for (unsigned int index = 0; index < sizeof(known) / sizeof(known[0]); index++) {
		const struct known *entry = &known[index];

		if (entry->vendor == (id & 0xffff) && (entry->product == id >> 16 || entry->product == 0xffff))
			return entry;
	}
	return NULL;
}

/* The attached bus with the number `bus`; NULL if there is none. */
static struct device *bus_device(unsigned int bus)
{
	for (int unit = 0; unit < pci_cd.cd_ndevs; unit++)
		if (buses[unit].sc_bus == (int)bus)
			return buses[unit].sc_dev;
	return NULL;
}

static void found(unsigned int bus, unsigned int device, unsigned int function, uint32_t id)
{
	const struct known *entry = look_up(id);
	struct device *parent = bus_device(bus);

	if (entry == NULL || entry->driver == NULL || parent == NULL)
		return;
	struct device *attached = attach(entry->driver, parent);

	if (attached == NULL)
		return;
	attached->dv_locators[0] = (int)device;
	attached->dv_locators[1] = (int)function;
	printf("%s at %s dev %u function %u: %s\n", attached->dv_xname, parent->dv_xname, device, function,
	       entry->name);
	if (entry->driver == &ppb_cd)
		(void)attach_bus(pci_read(bus, device, function, PCI_BUS_NUMBERS) >> 8 & 0xff, attached);
}

void autoconf(void)
{
	struct device *root = attach(&mainbus_cd, NULL);

	if (root && attach_bus(0, root))
		(void)pci_walk(0, found);
}

/* The device at a place on a bus; NULL if no driver has claimed it. */
static const struct device *claimed(unsigned int bus, unsigned int device, unsigned int function)
{
	const struct device *parent = bus_device(bus);

	for (const struct device *at = alldevs.tqh_first; at; at = at->dv_list.tqe_next)
		if (at->dv_parent == parent && parent && at->dv_locators[0] == (int)device &&
		    at->dv_locators[1] == (int)function)
			return at;
	return NULL;
}

/* The arguments of pci_list(), since pci_walk() passes none to its visitor. */
static struct {
	unsigned int bus;
	bool names, numeric;
} wanted;

static void list(unsigned int bus, unsigned int device, unsigned int function, uint32_t id)
{
	const struct known *entry = look_up(id);
	const struct device *driver = claimed(bus, device, function);

	if (bus != wanted.bus)
		return;
	printf("%03u:%02u:%u: ", bus, device, function);
	if (wanted.numeric)
		printf("0x%08x (0x%08x)", id, pci_read(bus, device, function, PCI_CLASS));
	else if (entry)
		printf("%s", entry->name);
	else
		printf("vendor %04x product %04x", id & 0xffff, id >> 16);
	if (wanted.names && driver)
		printf(" [%s]", driver->dv_xname);
	printf("\n");
}

bool pci_list(unsigned int unit, bool names, bool numeric)
{
	if (unit >= (unsigned int)pci_cd.cd_ndevs)
		return false;
	wanted.bus = (unsigned int)buses[unit].sc_bus;
	wanted.names = names;
	wanted.numeric = numeric;
	(void)pci_walk(0, list);
	return true;
}
