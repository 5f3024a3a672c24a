package main

import "strings"

var (
	systems      = []string{"Comarch ERP Optima", "Comarch ERP XL", "Subiekt GT", "Subiekt nexo PRO", "enova365", "wFirma.pl", "Fakturownia", "iFirma", "inFakt", "Symfonia", "SAP S/4HANA", "Aplikacja Podatnika KSeF", "Microsoft Dynamics 365", "Streamsoft", "WAPRO Mag"}
	companies    = []string{"Hurtownia Elektryczna", "Przedsiębiorstwo Handlowo-Usługowe", "Zakład Produkcyjny", "Biuro Rachunkowe", "Usługi Transportowe", "Kancelaria Prawna", "Centrum Ogrodnicze", "Drukarnia", "Budownictwo i Instalacje", "Firma Handlowa", "Systemy Informatyczne", "Technika Grzewcza", "Gospodarstwo Rolne", "Nieruchomości", "Logistyka Polska"}
	companyForms = []string{"sp. z o.o.", "Sp. z o. o.", "spółka z ograniczoną odpowiedzialnością", "S.A.", "Spółka Akcyjna", "sp. k.", "spółka jawna", "s.c."}
	firstNames   = []string{"Jan", "Anna", "Piotr", "Katarzyna", "Krzysztof", "Małgorzata", "Andrzej", "Agnieszka", "Tomasz", "Barbara", "Paweł", "Ewa"}
	lastNames    = []string{"Kowalski", "Nowak", "Wiśniewski", "Wójcik", "Kowalczyk", "Kamińska", "Lewandowski", "Zielińska", "Szymański", "Woźniak", "Dąbrowska", "Kozłowski"}
	streets      = []string{"ul. Polna", "ul. Leśna", "ul. Słoneczna", "ul. Krótka", "ul. Szkolna", "ul. Ogrodowa", "ul. Lipowa", "ul. Przemysłowa", "ul. Kwiatowa", "ul. Kościuszki", "ul. Mickiewicza", "al. Jerozolimskie", "ul. Marszałkowska", "pl. Wolności", "os. Piastowskie"}
	cities       = []string{"Warszawa", "Kraków", "Łódź", "Wrocław", "Poznań", "Gdańsk", "Szczecin", "Bydgoszcz", "Lublin", "Białystok", "Katowice", "Gdynia", "Częstochowa", "Radom", "Rzeszów", "Toruń", "Kielce", "Gliwice", "Zabrze", "Olsztyn", "Bielsko-Biała", "Zielona Góra", "Tychy", "Opole"}
	goods        = []string{
		"Usługa transportowa", "Usługi księgowe za miesiąc", "Abonament", "Opłata abonamentowa", "Energia elektryczna czynna", "Opłata dystrybucyjna", "Czynsz najmu lokalu użytkowego", "Olej napędowy ON", "Benzyna bezołowiowa Pb95", "Papier ksero A4 80g", "Toner do drukarki", "Usługi programistyczne", "Licencja na oprogramowanie", "Hosting i utrzymanie serwera", "Montaż i uruchomienie", "Kabel YDY 3x2,5", "Rura PVC fi 110", "Śruba M8x40 ocynk", "Farba emulsyjna biała 10 l", "Płyta gipsowo-kartonowa", "Cement portlandzki 25 kg", "Usługa serwisowa", "Dostawa i wniesienie", "Koszt wysyłki", "Przesyłka kurierska", "Laptop 15,6\"", "Monitor LED 27\"", "Obsługa prawna", "Szkolenie", "Reklama internetowa", "Konsultacje", "Części zamienne", "Filtr oleju", "Woda mineralna 1,5 l", "Kawa ziarnista 1 kg", "Mąka pszenna", "Usługa noclegowa", "Usługa gastronomiczna", "Wywóz odpadów", "Rabat",
	}
	units             = []string{"szt.", "szt", "usł.", "usługa", "kg", "m", "m2", "m3", "godz.", "h", "kpl.", "kpl", "op.", "opak.", "l", "t", "kWh", "mies.", "mb", "km", "para"}
	banks             = []string{"PKO Bank Polski S.A.", "mBank S.A.", "Santander Bank Polska S.A.", "ING Bank Śląski S.A.", "Bank Pekao S.A.", "BNP Paribas Bank Polska S.A.", "Alior Bank S.A.", "Bank Millennium S.A.", "Bank Spółdzielczy", "Credit Agricole Bank Polska S.A."}
	descriptionKeys   = []string{"Uwagi", "Numer zamówienia", "Nr zlecenia", "Osoba upoważniona do wystawienia", "Wystawił", "Opis", "Informacja dodatkowa", "Miejsce dostawy", "MPK", "Podstawa prawna"}
	remarks           = []string{"Dziękujemy za współpracę", "mechanizm podzielonej płatności", "zgodnie z umową", "wg zamówienia nr", "dostawa własnym transportem", "Prosimy o podanie numeru faktury w tytule przelewu", "Towar pozostaje własnością sprzedawcy do czasu zapłaty"}
	correctionReasons = []string{"Zwrot towaru", "Błędna cena", "Rabat potransakcyjny", "Błędna stawka VAT", "Zmiana ilości", "Błędne dane nabywcy", "Pomyłka w cenie"}
	footers           = []string{"Kapitał zakładowy: 50 000,00 zł", "Sąd Rejonowy dla m.st. Warszawy w Warszawie, XII Wydział Gospodarczy Krajowego Rejestru Sądowego", "Kapitał zakładowy 5 000,00 zł wpłacony w całości. Sąd Rejonowy Wydział Gospodarczy KRS", "Fakturę wystawiono w Krajowym Systemie e-Faktur"}
	rare              = []string{"http://crd.gov.pl/wzor/2023/06/29/12648/", "<P_13_4>", "<P_14_4>", "<P_13_5>", "<P_14_5>", "<P_13_6_3>", "<P_13_9>", "<P_13_10>", "<P_13_11>", "<P_14_2W>", "<KursWalutyZ>", "<P_19B>", "<P_19C>", "<P_22>", "<P_PMarzy>1</P_PMarzy>", "<P_PMarzy_2>", "<P_PMarzy_3_1>", "<StanPrzed>1</StanPrzed>", "<Podmiot1K>", "<Podmiot2K>", "<OkresFaKorygowanej>", "<NrFaKorygowany>", "<P_15ZK>", "<ZaliczkaCzesciowa>", "<P_6Z>", "<P_15Z>", "<NrKSeFN>1</NrKSeFN>", "<NrKSeFZN>1</NrKSeFZN>", "<NrFaZaliczkowej>", "<ZwrotAkcyzy>1</ZwrotAkcyzy>", "<P_11Vat>", "<P_12_XII>", "<P_12_Zal_15>1</P_12_Zal_15>", "<KwotaAkcyzy>", "<Procedura>", "<PKOB>", "<Odliczenia>", "<SumaOdliczen>", "<DoRozliczenia>", "<ZnacznikZaplatyCzesciowej>1</ZnacznikZaplatyCzesciowej>", "<ZaplataCzesciowa><KwotaZaplatyCzesciowej>", "<DataZaplatyCzesciowej>", "<TerminOpis><Ilosc>14</Ilosc><Jednostka>dni</Jednostka><ZdarzeniePoczatkowe>", "<PlatnoscInna>1</PlatnoscInna><OpisPlatnosci>", "<RachunekBankowyFaktora>", "<RachunekWlasnyBanku>", "<Skonto><WarunkiSkonta>", "<WysokoscSkonta>", "<LinkDoPlatnosci>https://", "<IPKSeF>", "<NrPartiiTowaru>", "<KursUmowny>", "<WalutaUmowna>", "<Transport><RodzajTransportu>", "<Przewoznik>", "<OpisLadunku>", "<JednostkaOpakowania>", "<DataGodzRozpTransportu>", "<DataGodzZakTransportu>", "<WysylkaZ>", "<WysylkaDo>", "<Zamowienie><WartoscZamowienia>", "<ZamowienieWiersz><NrWierszaZam>", "<P_7Z>", "<P_8AZ>", "<P_8BZ>", "<P_9AZ>", "<P_11NettoZ>", "<P_11VatZ>", "<P_12Z>", "<KodUE>DE</KodUE><NrVatUE>", "<BrakID>1</BrakID>", "<NrID>", "<IDWew>", "<IDNabywcy>", "<RolaInna>1</RolaInna><OpisRoli>", "<Udzial>", "<NrEORI>", "<GLN>", "<StatusInfoPodatnika>", "<PodmiotUpowazniony>", "<RolaPU>", "<EmailPU>", "<TelefonPU>", "<Zalacznik><BlokDanych><ZNaglowek>", "<MetaDane><ZKlucz>", "<ZWartosc>", "<Tekst><Akapit>", "<Tabela><TNaglowek><Kol Typ=\"txt\"><NKom>", "<Wiersz><WKom>", "<Suma><SKom>"}
)

// vocabulary is all the words, each once.
func vocabulary() string {
	var b strings.Builder
	for _, words := range [][]string{
		rare, footers, remarks, descriptionKeys, correctionReasons, systems, firstNames, lastNames, companies, companyForms,
		banks, goods, units, streets, cities,
	} {
		b.WriteString(strings.Join(words, "\n"))
	}
	return b.String()
}
