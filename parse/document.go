// Package parse reads invoice XML into a [Document]: the fields that an
// accountant asks for, as the document states them. It computes no amounts but
// the sums of the VAT summary, and keeps no files. A document that breaks its
// schema is read as far as it goes.
//
// It reads every form that KSeF serves, by the official schemas, whose element
// names the comments cite: FA(3), FA(2) and FA_RR(1) (Podmiot1 is the seller,
// Podmiot2 the buyer, P_15 the amount due), PEF(3) and PEF_KOR(3), which are UBL
// 2.1; and FA(1), which KSeF took before its version 2.0.
package parse

// Document is one invoice as its XML states it. Text that the document does not
// state is "", an amount that it does not state has Stated == false, a flag that
// it does not state is false. Where a form other than FA has a field under another
// name or in another place, the comments say so.
type Document struct {
	Form        string // FA, FA_RR, PEF, PEF_KOR or UNKNOWN
	FormCode    string // such as "FA (3)": kodSystemowy as stated, otherwise the code of the namespace
	FormVersion string // such as "1-0E"
	Namespace   string

	InvoiceType   string // RodzajFaktury: VAT, KOR, ZAL, ROZ, UPR, KOR_ZAL, KOR_ROZ, VAT_RR, KOR_VAT_RR; in PEF the code of UNTDID 1001, such as 380
	IsCorrection  bool
	InvoiceNumber string // P_2
	IssueDate     string // YYYY-MM-DD, as all dates here
	IssuePlace    string
	CreatedAt     string // xsd:dateTime as written
	SystemInfo    string
	SaleDate      string // P_6; in PEF the date of delivery
	PeriodFrom    string
	PeriodTo      string
	TaxDate       string // the first stated of PEF's tax point, sale date, period end, latest date of a line that is not BeforeCorrection, issue date
	Currency      string
	ExchangeRate  string // of the header: Fa/KursWalutyZ; in PEF TaxExchangeRate

	Gross      Minor // P_15; for a correction, as all amounts, the difference
	Net        Minor // sum of P_13_*; not stated when the document states none, or one that cannot be read
	VAT        Minor // sum of P_14_1 to P_14_5, likewise; P_14_5 is the tax of other countries (OSS); in FA_RR the flat-rate refund
	VATPLN     Minor // sum of P_14_1W to P_14_4W, likewise; only invoices in a foreign currency state them
	NetPLN     Minor // FA_RR in a foreign currency only
	GrossPLN   Minor // likewise
	LinesNet   Minor // the net sum of the lines, where the document states it: PEF and FA(1)
	ToPay      Minor
	ToSettle   Minor
	Charges    Minor // the sum of Adjustments of Kind charge, as stated
	Deductions Minor // and of those of Kind deduction
	Prepaid    Minor // PEF: what of Gross was paid before, and ToPay does not hold
	OrderValue Minor // WartoscZamowienia: gross value of the order that an advance is paid for

	TaxCurrency    string // PEF: the currency of TaxCurrencyVAT
	TaxCurrencyVAT Minor

	CashMethod, SelfBilling, ReverseCharge, SplitPayment bool
	Exempt                                               bool
	ExemptBasis                                          string
	NewTransport, Triangular                             bool
	MarginScheme                                         string // travel, used_goods, art or antiques
	CashRegister, RelatedParties, ExciseRefund           bool
	BuyerLocalGov, BuyerVATGroup                         bool
	Intermediary                                         bool // PodmiotPosredniczacy: supplied in a chain by the intermediary (art. 22(2d))

	CorrectionReason     string
	CorrectionEffect     int // TypKorekty: 1 from the original date, 2 from the correction's, 3 another; 0 when not stated
	CorrectionPeriod     string
	CorrectedNumberFixed string
	AmountBefore         Minor
	ExchangeRateBefore   string

	PaymentStatus     string // paid, partial, unpaid or unknown; "" without a payment block
	PaidDate          string
	PaymentMethod     string // cash, card, voucher, cheque, credit, transfer or mobile; "" for another, or none
	PaymentMethodCode string // as written: FormaPlatnosci, or in PEF the code of UNCL 4461, such as 30
	PaymentMethodText string // OpisPlatnosci
	PaymentReference  string // PEF: what the payment is to quote (PaymentID)
	FirstDueDate      string
	LastDueDate       string
	PaymentKSeFID     string
	PaymentLink       string
	DiscountTerms     string
	DiscountAmount    string

	DeliveryTerms        string // such as Incoterms
	ContractExchangeRate string // KursUmowny, by which amounts in PLN on the invoice were converted
	ContractCurrency     string // WalutaUmowna
	HasAttachment        bool

	Parties          []Party
	Lines            []Line
	VATRows          []VATRow
	References       []Reference
	CorrectionStates []CorrectionState
	Payments         []Payment
	DueDates         []DueDate
	Accounts         []Account
	Adjustments      []Adjustment
	RelatedDocuments []RelatedDocument
	Transports       []Transport
	Notes            []Note
	Attachments      []Attachment
	// Warnings name the fields that could not be read and why, never their content;
	// at most a few dozen.
	Warnings []string
}

// Minor is an amount in hundredths of the currency unit, whatever the currency.
type Minor struct {
	Value  int64
	Stated bool // false: the document states no such amount
}

// Party is a seller, buyer or other party of an invoice.
type Party struct {
	// Kind is seller, buyer, third or authorized; seller_before or buyer_before for
	// the data before a correction; carrier; in PEF also payee, delivery (where and to
	// whom the goods went), and issuer and recipient (the further addresses of PEF_KOR).
	Kind     string
	Position int // 1.. within its Kind; a carrier has that of its Transport

	IDType    string // Nip, VatUe, Other, None or InternalId, as in KSeF's metadata
	ID        string
	IDCountry string // KodUE or KodKraju of the ID; for a seller PrefiksPodatnika
	NIP       string // also the first ten digits of an InternalId
	EORI      string
	Name      string
	TradeName string // under which the party trades, beside its Name
	Country   string
	Address1  string
	Address2  string
	GLN       string

	LegalID  string // PEF: the number in the register of companies, or what is written there
	Endpoint string // PEF: the electronic address with its scheme, as Peppol writes it: 9945:5265877635

	MailCountry  string
	MailAddress1 string
	MailAddress2 string
	Contacts     []Contact

	RoleCode       int // Rola or RolaPU; 0 with RoleText: another role
	RoleText       string
	SharePercent   string
	CustomerNumber string // NrKlienta, NrKontrahenta; in PEF the party's identifier with the other one
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
	Number           int    // NrWierszaFa as issued; may repeat. Where PEF has a text instead, that is the UID, and this the Position
	UID              string
	BeforeCorrection bool // the state before a correction (StanPrzed)
	SaleDate         string
	Name             string
	ItemCode         string
	GTIN             string
	PKWiU            string
	CN               string
	PKOB             string
	QualityClass     string // FA_RR only
	Unit             string
	Quantity         string
	UnitPriceNet     string
	PriceQuantity    string // PEF: how many units UnitPriceNet is for, where not for one
	UnitPriceGross   string
	Discount         string
	Net              Minor
	Gross            Minor
	VAT              Minor
	VATRate          string // as written: 23, 8, "0 WDT", zw, "np I", …; in PEF the percentage, or the category of UNCL 5305 where it is not S: Z, E, AE, K, G or O
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
	// One bucket may hold two rates: P_13_1 is 23% and 22%. FA(1) has zero for all
	// zero rates, and holds in taxi what is under reverse charge too, in oss all that
	// is sold outside of the country. FA_RR has rr alone. In PEF it is made of the
	// category and the percentage, such as ubl:S:23.
	Bucket string
	Net    Minor
	VAT    Minor
	VATPLN Minor
}

// Reference names another invoice, as stated: whether it exists is not known.
type Reference struct {
	Relation    string // corrects or settles_advance
	Position    int    // 1.. within its Relation
	KSeFNumber  string
	Number      string
	IssueDate   string
	OutsideKSeF bool // the issuer says that the invoice is not in KSeF
}

// CorrectionState is the totals before or after a correction, which PEF_KOR states
// beside the difference.
type CorrectionState struct {
	State          string // before or after
	Bucket         string // as in VATRow: the totals of that bucket; "": of the document
	Net            Minor
	VAT            Minor
	Gross          Minor // of the document only, as those below
	LinesNet       Minor
	Prepaid        Minor
	ToPay          Minor
	TaxCurrencyVAT Minor
}

// Payment is a payment that was made before the invoice was issued.
type Payment struct {
	// Kind is paid for a part of the amount due; advance_part for one of the receipts
	// that an advance invoice documents (ZaliczkaCzesciowa); document for a document
	// of a payment to a farmer (DokumentZaplaty).
	Kind         string
	Position     int // 1.. within its Kind
	Date         string
	Amount       Minor
	Method       string // as PaymentMethod of Document
	MethodText   string
	Document     string // number of the document
	ExchangeRate string
}

// DueDate is a term of payment: a date, a description such as "14 days from
// delivery", which is not computed, or both.
type DueDate struct {
	Position    int
	Date        string
	Description string
}

// Account is a bank account that an invoice names.
type Account struct {
	Owner       string // seller, factor, farmer or buyer
	Position    int    // 1.. within its Owner
	Number      string // as stated: with or without country and spaces
	SWIFT       string
	BankName    string
	Description string
	BankOwn     int // RachunekWlasnyBanku 1 to 3; 0 when not stated
}

// Adjustment is an amount that is added or taken off, with its reason.
type Adjustment struct {
	// Kind is charge or deduction for what changes the amount to pay, behind Gross
	// (Rozliczenie). In PEF it is net_charge or net_allowance for what is in the net
	// amount already, of the document or of a line.
	Kind     string
	Position int // 1.. within its Kind
	Line     int // Position of the line that it belongs to; 0: the document
	Amount   Minor
	Reason   string
}

// RelatedDocument is a document other than an invoice, or a number to quote, that
// an invoice names.
type RelatedDocument struct {
	// Kind is contract, order or warehouse (WZ). In PEF also sales_order, despatch,
	// receipt, tender, project, additional, buyer_reference and accounting_cost.
	Kind        string
	Position    int // 1.. within its Kind
	Number      string
	Date        string
	Description string
}

// Transport is a transport of the goods; its carrier is among the parties.
type Transport struct {
	Position    int
	Mode        int // RodzajTransportu: 1 sea, 2 rail, 3 road, 4 air, 5 post, 7 pipeline or grid, 8 inland water; 0 with ModeText: another
	ModeText    string
	OrderNumber string
	Cargo       int // OpisLadunku 1 to 20; 0 with CargoText: another
	CargoText   string
	Packaging   string
	DepartedAt  string // xsd:dateTime as written
	ArrivedAt   string
	From        string // address in one line
	Via         string // addresses, one a line
	To          string
}

// Note is a text that has no field of its own.
type Note struct {
	// Kind is note for a key and value of the issuer's (DodatkowyOpis; in PEF a
	// cbc:Note, without a key); footer; registry for the numbers of one company in the
	// footer (Rejestry), with its name for Key; batch; new_transport for a field of a
	// new means of transport, with Key its name in the schema; line_info in FA(1);
	// amount_in_words in FA_RR; in PEF item for what describes an item, customization,
	// profile, and classification, with Key the list of codes.
	Kind     string
	Position int // 1.. within its Kind
	Line     int // the number, as stated, of the line that it belongs to; 0: the document
	Key      string
	Value    string
}

// Attachment is what an invoice has attached. Embedded files stay in the XML.
type Attachment struct {
	Kind     string // fa_block, ubl_embedded or ubl_link
	Position int    // 1.. over all kinds
	Title    string
	MIME     string
	Filename string // as stated: not safe to write a file by
	Size     int    // of an embedded file, decoded, in bytes
	SHA256   string // of an embedded file, decoded, in hexadecimal
	URI      string
	Block    *Block // of an fa_block
}

// Block is a block of the attachment of FA(3): structured text, not a file.
type Block struct {
	Metadata   []KeyValue `json:"metadata,omitempty"`
	Paragraphs []string   `json:"paragraphs,omitempty"`
	Tables     []Table    `json:"tables,omitempty"`
}

// KeyValue is one piece of metadata of a block or a table.
type KeyValue struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Table is a table of a block. Rows may have fewer cells than there are columns;
// an empty cell keeps its place.
type Table struct {
	Metadata    []KeyValue `json:"metadata,omitempty"`
	Description string     `json:"description,omitempty"`
	Columns     []Column   `json:"columns,omitempty"`
	Rows        [][]string `json:"rows,omitempty"`
	Sums        []string   `json:"sums,omitempty"`
}

// Column is the head of a column of a table.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"` // date, datetime, dec, int, time or txt
}
