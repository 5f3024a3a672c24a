// Package parse reads invoice XML into a [Document]: the fields that an
// accountant asks for, as the document states them. It computes no amounts but
// the sums of the VAT summary, and keeps no files. A document that breaks its schema is read as far as it goes.
//
// The forms FA(2) and FA(3) are read, by their official schemas
// (schemat_FA(2)_v1-0E.xsd, schemat_FA(3)_v1-0E.xsd), whose element names the
// comments cite: Podmiot1 is the seller, Podmiot2 the buyer, P_15 the amount due.
package parse

// Document is one invoice as its XML states it. Text that the document does not
// state is "", an amount that it does not state has Stated == false, a flag that
// it does not state is false.
type Document struct {
	Form        string // FA, FA_RR, PEF, PEF_KOR or UNKNOWN
	FormCode    string // such as "FA (3)": kodSystemowy as stated, otherwise the code of the namespace
	FormVersion string // such as "1-0E"
	Namespace   string

	InvoiceType   string // RodzajFaktury: VAT, KOR, ZAL, ROZ, UPR, KOR_ZAL, KOR_ROZ
	IsCorrection  bool
	InvoiceNumber string // P_2
	IssueDate     string // YYYY-MM-DD, as all dates here
	IssuePlace    string
	CreatedAt     string // xsd:dateTime as written
	SystemInfo    string
	SaleDate      string
	PeriodFrom    string
	PeriodTo      string
	TaxDate       string // the first stated of sale date, period end, latest date of a line that is not BeforeCorrection, issue date
	Currency      string
	ExchangeRate  string // Fa/KursWalutyZ only

	Gross      Minor // P_15; for a correction, as all amounts, the difference
	Net        Minor // sum of P_13_*; not stated when the document states none, or one that cannot be read
	VAT        Minor // sum of P_14_1 to P_14_5, likewise; P_14_5 is the tax of other countries (OSS)
	VATPLN     Minor // sum of P_14_1W to P_14_4W, likewise; only invoices in a foreign currency state them
	ToPay      Minor
	ToSettle   Minor
	Charges    Minor
	Deductions Minor

	CashMethod, SelfBilling, ReverseCharge, SplitPayment bool
	Exempt                                               bool
	ExemptBasis                                          string
	NewTransport, Triangular                             bool
	MarginScheme                                         string // travel, used_goods, art or antiques
	CashRegister, RelatedParties, ExciseRefund           bool
	BuyerLocalGov, BuyerVATGroup                         bool

	CorrectionReason     string
	CorrectionEffect     int // TypKorekty: 1 from the original date, 2 from the correction's, 3 another; 0 when not stated
	CorrectionPeriod     string
	CorrectedNumberFixed string
	AmountBefore         Minor
	ExchangeRateBefore   string

	PaymentStatus     string // paid, partial, unpaid or unknown; "" without a payment block
	PaidDate          string
	PaymentMethod     string // cash, card, voucher, cheque, credit, transfer or mobile; "" with PaymentMethodText: another
	PaymentMethodText string // OpisPlatnosci
	FirstDueDate      string
	LastDueDate       string
	PaymentKSeFID     string
	PaymentLink       string
	DiscountTerms     string
	DiscountAmount    string
	HasAttachment     bool

	Parties []Party
	Lines   []Line
	VATRows []VATRow
	// Warnings name the fields that could not be read and why, never their content;
	// at most a few dozen.
	Warnings []string
}

// Minor is an amount in hundredths of the currency unit, whatever the currency.
type Minor struct {
	Value  int64
	Stated bool // false: the document states no such amount
}

// Party is a seller, buyer or other party of an invoice. For Kind buyer_before
// and seller_before it holds the data before a correction.
type Party struct {
	Kind     string // seller, buyer, third, authorized, seller_before, buyer_before
	Position int    // 1.. within its Kind

	IDType    string // Nip, VatUe, Other, None or InternalId, as in KSeF's metadata
	ID        string
	IDCountry string // KodUE or KodKraju of the ID; for a seller PrefiksPodatnika
	NIP       string // also the first ten digits of an InternalId
	EORI      string
	Name      string
	Country   string
	Address1  string
	Address2  string
	GLN       string

	MailCountry  string
	MailAddress1 string
	MailAddress2 string
	Contacts     []Contact

	RoleCode       int // Rola or RolaPU; 0 with RoleText: another role
	RoleText       string
	SharePercent   string
	CustomerNumber string
	LinkKey        string // IDNabywcy
	TaxpayerStatus int    // StatusInfoPodatnika 1 to 4; 0 when not stated
}

// Contact is one way to reach a party.
type Contact struct {
	Email string `json:"email,omitempty"`
	Phone string `json:"phone,omitempty"`
}

// Line is a row of the invoice, or of the order that an advance invoice is for.
// Decimals other than amounts are canonical text: no exponent, no trailing zeros.
type Line struct {
	Kind             string // line or order
	Position         int    // 1.. in file order within its Kind; the only sure key
	Number           int    // NrWierszaFa as issued; may repeat
	UID              string
	BeforeCorrection bool // the state before a correction (StanPrzed)
	SaleDate         string
	Name             string
	ItemCode         string
	GTIN             string
	PKWiU            string
	CN               string
	PKOB             string
	Unit             string
	Quantity         string
	UnitPriceNet     string
	UnitPriceGross   string
	Discount         string
	Net              Minor
	Gross            Minor
	VAT              Minor
	VATRate          string // as written: 23, 8, "0 WDT", zw, "np I", …
	OSSRate          string
	Annex15          bool
	Excise           Minor
	GTU              string
	Procedure        string
	ExchangeRate     string
}

// VATRow is one bucket of the VAT summary.
type VATRow struct {
	// Bucket is standard, reduced1, reduced2, taxi, oss, zero_domestic, zero_eu,
	// zero_export, exempt, outside, outside_services_eu, reverse_charge or margin.
	// One bucket may hold two rates: P_13_1 is 23% and 22%.
	Bucket string
	Field  string // the field of its net amount, such as P_13_1
	Net    Minor
	VAT    Minor
	VATPLN Minor
}
